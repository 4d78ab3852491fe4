"""What a graph cannot hold: source read, lines that run, and a capture by Dynamo."""
