"""Encodings of weights as tables, and the code that decodes them."""
