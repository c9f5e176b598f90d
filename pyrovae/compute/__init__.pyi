from . import compilation, devices, interrupts, precision, processes

__all__ = ["compilation", "devices", "interrupts", "precision", "processes"]
