"""Models of single operators, made on the device and timed there: what an operator table is measured with."""
