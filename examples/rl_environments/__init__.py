"""How does somebody else's reinforcement learner meet the open world and the balancer's plant? As PettingZoo and Gymnasium environments."""
