"""Events: taken once, stored in few commits, and what each of them sets off."""
