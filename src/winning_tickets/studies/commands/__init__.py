"""The commands of studies and analyses, which the command line loads when they are asked for."""
