"""The inverse Hessian times a gradient: EK-FAC over linear layers."""
