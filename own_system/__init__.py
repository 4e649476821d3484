"""A platform's own tables: declared once, checked, and translated into the tables that the other rooms read."""
