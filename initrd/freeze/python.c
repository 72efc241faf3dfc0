/*
 * The interpreter in /init: CPython with our modules frozen in, and nothing to look for anywhere.
 *
 * What Python would do to its process is turned off here: no locale, no PYTHON* variables, no
 * signal handlers, no site, nothing added to the environment.
 *
 * It is initialised in two steps. The first is enough for frozen and built-in modules, which is all
 * that a boot uses. The second makes sys.stdout, codecs, open() and the import of files, and takes
 * as long as the first; entry.py asks for it when one of these is used. Source: "Multi-Phase
 * Initialization Private Provisional API" of Python's C API manual.
 */
#include "freeze.h"

#include <Python.h>

#include <unistd.h>

extern PyObject *PyInit__syscalls(void);

#if PY_VERSION_HEX < 0x030e0000
#define TWO_STEPS 1
extern PyStatus _Py_InitializeMain(void);
#else
#define TWO_STEPS 0
#define _Py_InitializeMain() PyStatus_Ok()
#endif

/* Made by modules.py: what init.py needs, and that with all of pyroute2. */
extern const struct _frozen initrd_modules[];
extern const struct _frozen initrd_all_modules[];
extern const char *const initrd_order[];
extern const char *const initrd_session_order[];

/* initrd.guest._freeze.complete(): the second step of the initialisation, if it is still to come. */
static PyObject *complete(PyObject *module, PyObject *unused)
{
	static int done = !TWO_STEPS;

	if (!done) {
		done = 1;
		PyStatus status = _Py_InitializeMain();
		if (PyStatus_Exception(status))
			return PyErr_Format(PyExc_RuntimeError, "Python: %s", status.err_msg);
	}
	Py_RETURN_NONE;
}

static PyObject *(*init_signal)(void);

/* The module _signal needs what the second step makes, and does not check that it is there. */
static PyObject *init_signal_completed(void)
{
	PyObject *completed = complete(NULL, NULL);

	Py_XDECREF(completed);
	return completed ? init_signal() : NULL;
}

/* initrd.guest._freeze.add_network(): from now on pyroute2 can be imported. Raises OSError. */
static PyObject *add_network(PyObject *module, PyObject *unused)
{
	PyObject *completed = complete(module, NULL); /* extension modules are imported from files */

	if (!completed)
		return NULL;
	Py_DECREF(completed);
	long failed = initrd_unpack(initrd_extensions);
	if (failed) {
		errno = (int)-failed;
		return PyErr_SetFromErrnoWithFilename(PyExc_OSError, RUNTIME_DIRECTORY);
	}
	PyImport_FrozenModules = initrd_all_modules;
	Py_RETURN_NONE;
}

/*
 * Import these modules without most of the import system's work, which is in Python and takes
 * longer than that of the modules. What fails here fails again, and is said, where it is used.
 */
static void import_modules(const char *const *names)
{
	for (; *names; names++)
		if (PyImport_ImportFrozenModule(*names) <= 0)
			PyErr_Clear();
}

/* initrd.guest._freeze.import_session(): import what a boot that runs a command needs. */
static PyObject *import_session(PyObject *module, PyObject *unused)
{
	import_modules(initrd_session_order);
	Py_RETURN_NONE;
}

static PyObject *init_freeze(void)
{
	static PyMethodDef functions[] = {
		{"add_network", add_network, METH_NOARGS, NULL},
		{"complete", complete, METH_NOARGS, NULL},
		{"import_session", import_session, METH_NOARGS, NULL},
		{NULL, NULL, 0, NULL},
	};
	static struct PyModuleDef definition = {
		PyModuleDef_HEAD_INIT,
		.m_name = "_freeze",
		.m_methods = functions,
	};
	return PyModule_Create(&definition);
}

static void check(PyStatus status)
{
	if (PyStatus_Exception(status))
		Py_ExitStatusException(status);
}

/* UTF-8 whatever the environment says: names of files go through unchanged. */
static void preinitialize(void)
{
	PyPreConfig config;

	PyPreConfig_InitIsolatedConfig(&config);
	config.utf8_mode = 1;
	check(Py_PreInitialize(&config));
}

static void set_paths(PyConfig *config)
{
	wchar_t **paths[] = {
		&config->program_name, &config->executable,  &config->base_executable,
		&config->home,	       &config->prefix,	     &config->base_prefix,
		&config->exec_prefix,  &config->base_exec_prefix,
	};
	for (size_t at = 0; at < sizeof paths / sizeof *paths; at++)
		check(PyConfig_SetString(config, paths[at], L"/init"));
	config->module_search_paths_set = 1;
	check(PyWideStringList_Append(&config->module_search_paths, L"" RUNTIME_DIRECTORY));
}

static void initialize(int argc, char **argv)
{
	PyConfig config;

	PyConfig_InitIsolatedConfig(&config);
	config.site_import = 0;
	config.write_bytecode = 0;
	config.optimization_level = 2;
	config.use_hash_seed = 1; /* the kernel has no entropy yet, and nothing here needs any */
	config.hash_seed = 0;
#if TWO_STEPS
	config._init_main = 0;
#endif
	set_paths(&config);
	check(PyConfig_SetBytesArgv(&config, argc, argv));
	check(Py_InitializeFromConfig(&config));
	PyConfig_Clear(&config);
}

/* The first step leaves sys.argv to the second. */
static void set_arguments(int argc, char **argv)
{
	PyObject *list = PyList_New(0);

	for (int at = 0; list && at < argc; at++) {
		PyObject *argument = PyUnicode_DecodeFSDefault(argv[at]);
		if (!argument || PyList_Append(list, argument))
			Py_FatalError("no memory for the arguments");
		Py_DECREF(argument);
	}
	PySys_SetObject("argv", list);
	Py_XDECREF(list);
}

static void set_modules(void)
{
	PyImport_FrozenModules = initrd_modules;
	PyImport_AppendInittab("_syscalls", PyInit__syscalls);
	PyImport_AppendInittab("_freeze", init_freeze);
	for (struct _inittab *module = PyImport_Inittab; module->name; module++)
		if (!strcmp(module->name, "_signal")) {
			init_signal = module->initfunc;
			module->initfunc = init_signal_completed;
		}
}

/* A built-in module as part of a package: before 3.11.3 the import system does not look for any. */
static void publish(const char *name, const char *full_name)
{
	PyObject *module = PyImport_ImportModule(name);

	if (!module || PyDict_SetItemString(PyImport_GetModuleDict(), full_name, module))
		Py_FatalError("no memory for the built-in modules");
	Py_DECREF(module);
}

int main(int argc, char **argv)
{
	preinitialize();
	set_modules();
	initialize(argc, argv);
	set_arguments(argc, argv);
	publish("_syscalls", "initrd.guest._syscalls");
	publish("_freeze", "initrd.guest._freeze");
	PyGC_Disable(); /* a boot makes too little garbage for a search to pay */
	getppid();	/* bench/start.py looks for this in the kernel's trace: Python has started */
	import_modules(initrd_order);
	PyImport_ImportFrozenModule("__main__");
	PyErr_Print(); /* it always ends with an exception: SystemExit, which ends this process */
	return 1;
}
