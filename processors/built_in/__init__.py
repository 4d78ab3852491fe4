"""The processors that come with the pack, one kernel a file."""
