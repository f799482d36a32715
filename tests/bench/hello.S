// SPDX-License-Identifier: BSD-2-Clause
// hello: a guest whose first instructions write "!" to the serial port; then it resets by a triple fault, which ends every
// monitor that is told not to start it again.  An ELF kernel with a PVH entry.
	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18		// XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long _start

	.section .text.entry, "ax"
	.code32
	.globl _start, start64
_start:
start64:
	movb $'\n', %al
	movw $0x3f8, %dx
	outb %al, (%dx)
	lidt nothing
	ud2
	.balign 8
nothing:
	.word 0
	.long 0
