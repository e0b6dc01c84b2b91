"""What every benchmark uses: timing, training runs, result files, tables and plots."""
