"""Dynamo, as the people who use a model need it."""
