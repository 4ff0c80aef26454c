"""Files of rows, by format: what stands in them is read as it was meant, or refused with what to do."""
