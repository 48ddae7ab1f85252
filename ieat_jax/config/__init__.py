"""What a run is asked to do: recipe files, typed sections, machines."""
