"""What is put under load? A service or a function: how it starts, answers, ends, and which CPU clocks account for it."""
