"""tslab: location encoders, the models around them and the benchmark that compares them.

Everything works on ``(longitude, latitude)`` pairs in degrees, as float tensors of shape ``(n, 2)``.
"""

__version__ = "0.1.0"
