"""How does a live system use a controller? Sources of measurements, sinks of λ, state, decision log, metrics, replay."""
