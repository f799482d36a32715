/*
 * PID 1 of the test guests.  It mounts the usual file systems, loads the modules
 * that /etc/load names, does what the kernel command line asks for, reports the
 * result on the console in lines that begin with "MINIVMM-", and stops the
 * machine.  Called by the kernel; it never starts a service and keeps no state.
 *
 *   minivmm.run="COMMAND"    run COMMAND with sh
 *   minivmm.run64=BASE64     the same, for what the command line cannot quote
 *   minivmm.script=/dev/vdb  the same, for a script at the start of a disk, ended by a NUL
 *   minivmm.agent            run what the console sends: lines "ID BASE64"
 *   minivmm.root=/dev/vda    hand over to that disk's /sbin/init (minivmm.init=PATH)
 *   minivmm.tools=/dev/vdc   first mount this disk of programs and modules
 *   minivmm.after=poweroff|reboot|halt|none   afterwards (default poweroff); a
 *                            command overrides it by writing the word to /run/after
 *
 * With none of them it gives a shell.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DEVICE_WAIT_MS 20000

static char cmdline[4096];

/* A whole line in one write, with the kernel kept from printing into it. */
static void report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void report(const char *fmt, ...)
{
	char line[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	fflush(stdout);
	tcdrain(1);
	klogctl(6, NULL, 0);
	if (write(1, line, (size_t)n) < 0)
		return;
	tcdrain(1);
	klogctl(7, NULL, 0);
}

/* The value of NAME on the command line ("" for a bare word), or NULL; quotes group, as in the kernel. */
static char *word(const char *name)
{
	size_t len = strlen(name);
	const char *p = cmdline;

	while (*p) {
		const char *start;
		bool quoted = false;
		char *out, *o;

		while (*p == ' ' || *p == '\n')
			p++;
		start = p;
		for (; *p && *p != '\n' && (quoted || *p != ' '); p++)
			quoted ^= *p == '"';
		if (*start == '"')
			start++;
		if (strncmp(start, name, len) || !strchr("= \n", start[len]))
			continue;
		out = o = calloc(1, (size_t)(p - start) + 1);
		if (!out)
			return NULL;
		for (start += len + (start[len] == '='); start < p; start++) {
			if (*start != '"')
				*o++ = *start;
		}
		return out;
	}
	return NULL;
}

static char *base64_decode(const char *in)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *out = calloc(1, strlen(in) + 1);
	unsigned acc = 0, bits = 0;
	char *o = out;

	for (; out && *in && *in != '='; in++) {
		const char *c = strchr(set, *in);

		if (!c) {
			free(out);
			return NULL;
		}
		acc = (acc << 6 | (unsigned)(c - set)) & 0xffff;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			*o++ = (char)(acc >> bits & 0xff);
		}
	}
	return out;
}

static void load_modules(void)
{
	char path[256];
	FILE *f = fopen("/etc/load", "re");

	while (f && fgets(path, sizeof(path), f)) {
		int fd;

		path[strcspn(path, "\n")] = 0;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			report("MINIVMM-WARNING %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	if (f)
		fclose(f);
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		ioctl(fd, SIOCSIFFLAGS, &r);
		close(fd);
	}
}

/* Discs appear when their driver has probed them. */
static bool wait_for(const char *path)
{
	for (int ms = 0; ms < DEVICE_WAIT_MS; ms += 10) {
		if (!access(path, F_OK))
			return true;
		usleep(10000);
	}
	report("MINIVMM-WARNING %s has not appeared in %d s", path, DEVICE_WAIT_MS / 1000);
	return false;
}

static bool mount_or_say(const char *dev, const char *dir, const char *type, unsigned long flags)
{
	mkdir(dir, 0755);
	if (!mount(dev, dir, type, flags, NULL))
		return true;
	report("MINIVMM-WARNING cannot mount %s on %s: %s", dev, dir, strerror(errno));
	return false;
}

static void mount_basics(void)
{
	mount_or_say("proc", "/proc", "proc", 0);
	mount_or_say("sysfs", "/sys", "sysfs", 0);
	if (access("/dev/kmsg", F_OK))
		mount_or_say("devtmpfs", "/dev", "devtmpfs", 0);
	mount_or_say("run", "/run", "tmpfs", 0);
	mount_or_say("devpts", "/dev/pts", "devpts", 0);
	mount_or_say("shm", "/dev/shm", "tmpfs", 0);
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

static void mount_tools(const char *dev)
{
	if (!wait_for(dev) || !mount_or_say(dev, "/tools", "ext4", MS_RDONLY))
		return;
	setenv("PATH", "/tools/usr/bin:/bin:/sbin", 1);
	/* the disk has every module, the initramfs only what a boot needs */
	mount("/tools/lib/modules", "/lib/modules", NULL, MS_BIND, NULL);
}

/* ---- the power button --------------------------------------------------------------------- */

static int power_button_open(void)
{
	for (int i = 0; i < 8; i++) {
		char path[32], name[64] = "";
		int fd;

		snprintf(path, sizeof(path), "/dev/input/event%d", i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		ioctl(fd, EVIOCGNAME(sizeof(name) - 1), name);
		if (!strcmp(name, "Power Button"))
			return fd;
		close(fd);
	}
	return -1;
}

/*
 * A child that outlives a change of root: it asks PID 1 to stop by SIGUSR2, which
 * busybox's init and this one both take for "power off".
 */
static void watch_power_button(void)
{
	struct input_event ev;
	int fd = power_button_open();

	if (fd < 0) {
		report("MINIVMM-NO-POWER-BUTTON");
		return;
	}
	if (fork())
		return;
	setsid();
	while (read(fd, &ev, sizeof(ev)) == (ssize_t)sizeof(ev)) {
		if (ev.type == EV_KEY && ev.code == KEY_POWER && ev.value == 1) {
			report("MINIVMM-POWER-BUTTON");
			kill(1, SIGUSR2);
		}
	}
	_exit(0);
}

/* ---- the end ------------------------------------------------------------------------------ */

static void unmount_all(void)
{
	char line[512], dirs[64][128];
	int n = 0;
	FILE *f = fopen("/proc/self/mounts", "re");

	while (f && n < 64 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %127s", dirs[n]) == 1 && strcmp(dirs[n], "/") &&
		    strncmp(dirs[n], "/proc", 5) && strncmp(dirs[n], "/dev", 4))
			n++;
	}
	if (f)
		fclose(f);
	while (n-- > 0)
		umount2(dirs[n], 0);
}

static void __attribute__((noreturn)) stop_machine(const char *how)
{
	int cmd = !strcmp(how, "reboot") ? RB_AUTOBOOT : !strcmp(how, "halt") ? RB_HALT_SYSTEM : RB_POWER_OFF;

	signal(SIGUSR2, SIG_IGN);
	while (!strcmp(how, "none"))
		pause();
	kill(-1, SIGTERM);
	for (int i = 0; i < 50 && kill(-1, 0) == 0; i++) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		usleep(10000);
	}
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	sync();
	unmount_all();
	tcdrain(1);
	reboot(cmd);
	for (;;)
		pause();
}

static void on_power(int sig)
{
	(void)sig;
	stop_machine("poweroff");
}

static const char *after(void)
{
	static char buf[32];
	const char *w = word("minivmm.after");
	FILE *f = fopen("/run/after", "re");

	if (f && fgets(buf, sizeof(buf), f)) {
		buf[strcspn(buf, " \n")] = 0;
		w = buf;
	}
	if (f)
		fclose(f);
	return w ? w : "poweroff";
}

/* ---- commands ----------------------------------------------------------------------------- */

static int reap(pid_t child)
{
	int status;
	pid_t pid;

	do {
		pid = waitpid(-1, &status, 0);
	} while (pid != child && (pid > 0 || errno == EINTR));
	if (pid < 0)
		return 127;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Its status as a shell would give it.  A command gets no input unless it is the shell. */
static int run(char *const argv[], bool interactive)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return 127;
	if (!pid) {
		signal(SIGUSR2, SIG_DFL);
		setsid();
		if (interactive) {
			ioctl(0, TIOCSCTTY, 1);
		} else {
			int fd = open("/dev/null", O_RDONLY);

			if (fd > 0)
				dup2(fd, 0);
		}
		execv("/bin/sh", argv);
		_exit(127);
	}
	return reap(pid);
}

static int run_text(const char *text)
{
	char *argv[] = { "sh", "-c", (char *)(unsigned long)text, NULL };

	return run(argv, false);
}

/* The script ends at the first NUL, or with the disk. */
static int run_script(const char *dev)
{
	char *argv[] = { "sh", "/run/script", NULL };
	char buf[4096];
	ssize_t n;
	int in, out;

	if (!wait_for(dev))
		return 126;
	in = open(dev, O_RDONLY | O_CLOEXEC);
	out = open("/run/script", O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	while (in >= 0 && out >= 0 && (n = read(in, buf, sizeof(buf))) > 0) {
		size_t len = strnlen(buf, (size_t)n);

		if (write(out, buf, len) != (ssize_t)len)
			return 126;
		if (len < (size_t)n)
			break;
	}
	if (in < 0 || out < 0)
		return 126;
	close(in);
	close(out);
	return run(argv, false);
}

/* Lines are read a byte at a time from a raw terminal: a canonical one cuts them at 4095 bytes. */
static bool agent_line(char *line, size_t size)
{
	size_t len = 0;
	char c;

	for (;;) {
		ssize_t n = read(0, &c, 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		if (c == '\n')
			break;
		if (len + 1 < size)
			line[len++] = c;
	}
	line[len] = 0;
	return true;
}

static void agent(void)
{
	static char line[1 << 17];
	struct termios t;

	if (!tcgetattr(0, &t)) {
		t.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
		t.c_iflag &= ~(tcflag_t)(ICRNL | IXON);
		tcsetattr(0, TCSANOW, &t);
	}
	report("MINIVMM-AGENT");
	while (agent_line(line, sizeof(line))) {
		char *text = strchr(line, ' ');
		int rc;

		if (!text)
			continue;
		*text++ = 0;
		text = base64_decode(text);
		if (!text) {
			report("MINIVMM-END %s 125", line);
			continue;
		}
		report("MINIVMM-BEGIN %s", line);
		rc = run_text(text);
		free(text);
		report("\nMINIVMM-END %s %d", line, rc);
		if (!access("/run/after", F_OK))
			return;
	}
}

static void hand_over(const char *dev)
{
	char *init = word("minivmm.init");

	if (!init)
		init = "/sbin/init";
	if (!wait_for(dev) || !mount_or_say(dev, "/newroot", "ext4", 0))
		return;
	mount("/dev", "/newroot/dev", NULL, MS_MOVE, NULL);
	mount("/proc", "/newroot/proc", NULL, MS_MOVE, NULL);
	mount("/sys", "/newroot/sys", NULL, MS_MOVE, NULL);
	mount("/run", "/newroot/run", NULL, MS_MOVE, NULL);
	execl("/bin/busybox", "switch_root", "/newroot", init, (char *)NULL);
}

static void read_cmdline(void)
{
	FILE *f = fopen("/proc/cmdline", "re");

	if (!f || !fgets(cmdline, sizeof(cmdline), f))
		report("MINIVMM-WARNING no command line");
	if (f)
		fclose(f);
}

int main(void)
{
	char *const shell[] = { "sh", NULL };
	char *w;
	int rc;

	umask(022);
	setenv("PATH", "/bin:/sbin", 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "vt100", 1);
	mount_basics();
	read_cmdline();
	load_modules();
	report("MINIVMM-INIT");
	watch_power_button();
	signal(SIGUSR2, on_power);
	loopback_up();
	if ((w = word("minivmm.tools")))
		mount_tools(w);
	if ((w = word("minivmm.root"))) {
		hand_over(w);
		rc = 126;
	} else if ((w = word("minivmm.run64"))) {
		w = base64_decode(w);
		rc = w ? run_text(w) : 125;
	} else if ((w = word("minivmm.run"))) {
		rc = run_text(w);
	} else if ((w = word("minivmm.script"))) {
		rc = run_script(w);
	} else if (word("minivmm.agent")) {
		agent();
		stop_machine(after());
	} else {
		rc = run(shell, true);
	}
	report("\nMINIVMM-EXIT %d", rc);
	stop_machine(after());
}
