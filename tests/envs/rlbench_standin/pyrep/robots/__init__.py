"""As in the real PyRep, and not in the unrelated one."""
