"""The benchmark's rivals: each a thing that a user would do instead of PSA, and PSA itself, behind one interface.

See `mini.method.Method`. What is trained or edited here changes the mini base model's weights or stands beside it;
nothing of it is in the path of PSA's own sampler.
"""
