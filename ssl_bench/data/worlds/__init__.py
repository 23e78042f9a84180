"""One file is one world: a subclass of `World` (data/world.py), found by listing this folder.

two_room   a dot crosses between two rooms by a door
"""
