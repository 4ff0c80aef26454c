"""Work items, and who carries them out: this process, processes of this machine, Ray."""
