"""The U-Net: how it is built, trained, run over many images and measured."""
