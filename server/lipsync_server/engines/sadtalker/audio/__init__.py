"""From speech to expression and pose coefficients."""
