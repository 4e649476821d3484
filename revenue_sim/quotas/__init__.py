"""Which state gets which joint action when every action has a quota of uses."""
