"""Everything that opens a file, with damaged and hostile files; see docs/explanation/faults.md."""
