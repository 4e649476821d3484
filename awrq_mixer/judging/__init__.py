"""How good is a learner, by held-out rows alone, and how well is that known?"""
