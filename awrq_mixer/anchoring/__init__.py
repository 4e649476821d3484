"""What holds a learner to the evidence? One profile of mean values for all, and how far states may depart from it."""
