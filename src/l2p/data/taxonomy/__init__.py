"""The taxonomy: main classes, subclasses and fine classes as data (JSON), and the grammar that describes them."""
