# SPDX-License-Identifier: BSD-2-Clause
# A boot sector that reads sectors for ever and looks, again and again, whether what it read is still there.
#
# Sector k + 1 of its disk is filled with the byte k + k / 512.  Read n goes to slot n % 512 of a quarter megabyte that only the device
# writes to, so each pass over the slots changes each of them; after each read one of the slots is compared.  A page that a move to
# another host forgot shows as a slot of an earlier pass.  Prints a dot for each pass, F and stops when something is wrong.
	.code16
	.globl _start
_start:	cli
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %ss
	mov	$0x7c00, %sp
	sti
	cld
	mov	%dl, drive
	xor	%ebp, %ebp		# n
again:	mov	%bp, %ax		# the slot's segment
	and	$511, %ax
	shl	$5, %ax
	add	$0x2000, %ax
	mov	%ax, dap + 6
	mov	%ebp, %eax
	and	$0x3fff, %eax
	inc	%eax			# we are sector 0
	mov	%eax, dap + 8
	mov	$0x42, %ah
	mov	drive, %dl
	mov	$dap, %si
	int	$0x13
	jc	wrong
	cmp	$512, %ebp
	jb	next
	imul	$167, %bp, %bx		# which slot
	and	$511, %bx
	mov	%ebp, %eax		# the last read that went there
	sub	%bx, %ax
	and	$511, %eax
	neg	%eax
	add	%ebp, %eax
	and	$0x3fff, %ax
	mov	%ax, %cx
	shr	$9, %cx
	add	%cx, %ax		# the byte
	shl	$5, %bx
	add	$0x2000, %bx
	mov	%bx, %es
	xor	%di, %di
	mov	$512, %cx
	repe	scasb
	jne	wrong
next:	inc	%ebp
	test	$511, %bp
	jnz	again
	mov	$'.', %al
	call	print
	jmp	again
wrong:	mov	$'F', %al
	call	print
	cli
	hlt
print:	mov	$0x3f8, %dx
	out	%al, %dx
	ret
	.balign	4
dap:	.byte	16, 0
	.word	1, 0, 0x2000
	.long	0, 0
drive:	.byte	0
	.org	510
	.word	0xaa55
