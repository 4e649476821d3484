"""Which networks value sub-actions and joint actions?"""
