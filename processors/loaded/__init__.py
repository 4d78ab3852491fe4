"""Processors whose weights come from a safetensors file: what a file holds, and what computes with it."""
