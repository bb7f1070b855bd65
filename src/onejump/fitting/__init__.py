"""How shortcuts are fitted: in closed form, by gradient descent, by distillation."""
