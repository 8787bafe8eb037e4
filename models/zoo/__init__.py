"""Trained models to compress, made again by one command each: see train.py."""
