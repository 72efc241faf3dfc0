# Completion of chrootvm for bash. Options come from `chrootvm --help`, names from `chrootvm --list`.

_chrootvm() {
	local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} index

	for ((index = 1; index < COMP_CWORD; index++)); do
		if [[ ${COMP_WORDS[index]} == -- ]]; then # COMMAND
			COMPREPLY=($(compgen -f -- "$word"))
			return
		fi
	done
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--in | --stop)
		COMPREPLY=($(compgen -W "$("$program" --list 2>/dev/null | sed '1d; s/ .*//')" -- "$word"))
		;;
	--kernel | --init | --disk | --report | --qemu | --virtiofsd)
		COMPREPLY=($(compgen -f -- "$word"))
		;;
	--modules | --chdir)
		COMPREPLY=($(compgen -d -- "$word"))
		;;
	--accel)
		COMPREPLY=($(compgen -W 'auto kvm tcg' -- "$word"))
		;;
	*)
		if [[ $word == -* ]]; then
			local options
			options=$("$program" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p')
			COMPREPLY=($(compgen -W "$options" -- "$word"))
		else
			COMPREPLY=($(compgen -d -- "$word"))
		fi
		;;
	esac
}

complete -o filenames -F _chrootvm chrootvm
