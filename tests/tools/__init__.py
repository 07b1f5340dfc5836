"""Tools that tests and developers share; README.md says what they are for."""
