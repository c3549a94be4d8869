"""Pictures that show figures, and pictures beside pictures."""
