"""Steps that leave blocks of a model out, which changes the picture."""
