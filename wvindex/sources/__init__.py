"""Readers of checkpoint files: bytes and names, nothing about models."""
