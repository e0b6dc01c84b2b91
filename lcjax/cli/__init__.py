"""The command `lcjax`."""
