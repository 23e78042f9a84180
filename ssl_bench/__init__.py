"""ssl-bench: which self-supervised objective gives the better representation, for this data and this budget?"""

__version__ = "0.1.0"
