// SPDX-License-Identifier: BSD-2-Clause
// Where a guest starts: by PVH (32-bit, paging off), by the 64-bit entry of Linux, or as a second processor (real mode).
//
// All three end in long mode on this file's page tables (the first 8 GiB at their own addresses, 2 MiB a page) and its GDT, with a
// stack of their own.  The tables are data and not code's work: a host that interprets kernel mode runs them in no time.

#ifdef PVH
	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18		// XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long start32
#endif

#define CODE64 0x08
#define DATA   0x10
#define CODE32 0x18
#define AP_STACK_SHIFT 13

	.section .text.entry, "ax"
	.code32
start32:
	cli
	cld
	movl %ebx, boot_pvh
	movl $start64_boot, %edi
	jmp enter_long

// A second processor, with flat segments.
ap32:
	movw $DATA, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $start64_ap, %edi

// Switches to long mode and goes on at %edi.
enter_long:
	lgdt gdt_pointer
	movl $pml4, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x20, %eax		// PAE
	movl %eax, %cr4
	movl $0xc0000080, %ecx	// EFER
	rdmsr
	orl $0x100, %eax	// LME
	wrmsr
	movl %cr0, %eax
	orl $0x80000001, %eax
	movl %eax, %cr0
	ljmp $CODE64, $long_jump

	.code64
long_jump:
	movl %edi, %edi
	jmp *%rdi

	.globl start64
start64:
	cli
	cld
	movq %rsi, boot_zero_page
	movq $pml4, %rax
	movq %rax, %cr3
	movq $boot_stack_end, %rsp
	lgdt gdt_pointer
	pushq $CODE64
	pushq $start64_boot
	lretq

start64_boot:
	movq $boot_stack_end, %rsp
	call segments_load
	xorl %ebp, %ebp
	call guest_start
1:	cli
	hlt
	jmp 1b

start64_ap:
	movl $0xfee00020, %eax
	movl (%rax), %edi
	shrl $24, %edi
	leal 1(%rdi), %eax
	shll $AP_STACK_SHIFT, %eax
	leaq ap_stacks(%rax), %rsp
	call segments_load
	xorl %ebp, %ebp
	call cpu_start
1:	cli
	hlt
	jmp 1b

segments_load:
	movl $DATA, %eax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	xorl %eax, %eax
	movw %ax, %fs
	movw %ax, %gs
	ret

// ---- interrupts: a stub of 16 bytes for each vector -------------------------------------------------------------

	.balign 16
	.globl trap_stubs
trap_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	// 8, 10-14, 17, 21 come with an error code
	.if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21))
	pushq $0
	.endif
	pushq $vector
	jmp trap_common
	.set vector, vector + 1
	.endr

trap_common:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, %rdi
	cld
	call trap
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

// ---- what a second processor executes first, copied below 1 MiB -------------------------------------------------

	.code16
	.globl trampoline, trampoline_end
trampoline:
	cli
	lgdtl %cs:trampoline_gdt - trampoline
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $CODE32, $ap32
	.balign 4
trampoline_gdt:
	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

// ---- data -------------------------------------------------------------------------------------------------------

	.data
	.balign 16
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	// code, 64-bit
	.quad 0x00cf93000000ffff	// data
	.quad 0x00cf9b000000ffff	// code, 32-bit
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt

	.globl boot_pvh, boot_zero_page
	.balign 8
boot_pvh:	.quad 0
boot_zero_page:	.quad 0

#define DIRECTORIES 8
	.balign 4096
pml4:
	.quad pdpt + 3
	.fill 511, 8, 0
pdpt:
	.set n, 0
	.rept DIRECTORIES
	.quad directories + n * 4096 + 3
	.set n, n + 1
	.endr
	.fill 512 - DIRECTORIES, 8, 0
directories:
	.set n, 0
	.rept DIRECTORIES * 512
	.quad n * 0x200000 + 0x83
	.set n, n + 1
	.endr

	.bss
	.balign 16
	.skip 16384
boot_stack_end:
	.globl ap_stacks
ap_stacks:
	.skip 16 << AP_STACK_SHIFT

	.section .note.GNU-stack, "", @progbits
