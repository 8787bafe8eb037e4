"""For the engineer's computer only: nothing on the device imports this package."""
