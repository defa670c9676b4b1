"""Calls a seqserve server from Python."""
