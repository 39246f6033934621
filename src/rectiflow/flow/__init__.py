"""The mathematics: paths, times, formulations, loss, solvers, guidance. Imports torch only."""
