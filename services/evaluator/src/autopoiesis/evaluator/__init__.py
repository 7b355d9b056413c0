"""Proves candidates in shadow and promotes what is proven."""
