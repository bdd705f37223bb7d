"""The paper's tables as data, and what runs them on any backdoored network."""
