"""One file is one world: a subclass of `World` (data/world.py), found by listing this folder.

pusht      a disc pushes a T to a place and an angle (gym-pusht, the extra `[worlds]`)
two_room   a dot crosses between two rooms by a door
"""
