"""Timing beside peers; never a test."""
