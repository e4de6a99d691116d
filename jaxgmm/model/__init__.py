"""The mixture, its prior, its sufficient statistics, and one step of EM."""
