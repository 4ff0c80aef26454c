"""The commands as functions: the same options by the same names, a result instead of a screen."""
