//! What is left of the PC/AT: a serial port, the reset line of the keyboard controller, the battery-backed clock, and the registers that
//! end the machine.

pub mod cmos;
pub mod i8042;
pub mod power;
pub mod serial;
