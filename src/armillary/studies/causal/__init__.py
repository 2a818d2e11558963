"""Does a feature cause what is said of it?"""
