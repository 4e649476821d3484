"""Q(s, a): what each joint action is worth, learned offline from logs."""
